"""Images in: betons and folders as batches whose every pixel is a function of (seed, epoch, sample)."""
