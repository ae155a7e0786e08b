"""Do samples help? Transfer, settings, decoding, hybrid."""
