"""Images in: betons and folders as batches whose every pixel is a function of (seed, epoch, sample).

path -> sets: folder, beton, FFCV behind one protocol (pack makes betons)
     -> stream: order says which sample comes when; threads decode it, cut a view of it (views), a few batches ahead
     -> device: uint8, to the GPU without waiting -> views: colour, there, in one graph or row by row -> Batch
once is the same for evaluation: each image once, its centre, in order.
Which sample, which crop and which colour are functions of (seed, position): a resumed run sees what it would have.
"""
