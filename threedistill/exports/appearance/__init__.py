"""What surfaces look like in files: materials, pictures, and parts of several materials joined in one atlas."""
