"""Videos, pictures and conversations to batches."""
