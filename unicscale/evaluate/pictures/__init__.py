"""What a student sees, as pictures: `unicscale look` makes them where features are, `unicscale report` shows them.

RUN, images -> crew: the student and its teachers, on the same pixels -> colours: patch tokens in one colour space;
neighbours and distances -> maps: segmentation and depth beside the truth -> sheet: one JSON each, below RUN/pictures
"""
