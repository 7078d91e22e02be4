"""From a manifest to stored features: batches of like length, one pass of the encoder, shards that survive a kill."""
