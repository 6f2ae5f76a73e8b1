"""Videos, GIFs and images: probe a file, choose frames by sampling, and decode those frames to pixels."""
