"""Videos, GIFs and images: what a file is, which of its frames are wanted, and those frames as pixels."""
