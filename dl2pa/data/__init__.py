"""Images and labels: long-tail subsets, reading what is on disk, and batches on the device."""
