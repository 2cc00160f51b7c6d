"""What lies on a disk: JSON documents with limits, and files and folders that appear whole or not at all."""
