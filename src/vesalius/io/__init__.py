"""Any file to a volume; a mask to any file."""
