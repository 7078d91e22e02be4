"""From a manifest to stored features: extraction in batches of similar length, into shards that survive a kill."""
