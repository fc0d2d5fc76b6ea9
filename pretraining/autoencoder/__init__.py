"""The autoencoder of whole scans, which ends in their features."""
