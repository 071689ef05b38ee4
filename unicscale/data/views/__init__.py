"""What an image looks like to the models: crops, sizes, colour."""
