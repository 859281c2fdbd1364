"""What `labctl.learning.data` is made of: known sets, readers of the formats, sets that users add, fetching."""
