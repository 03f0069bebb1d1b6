"""Correction of expression by an autoencoder whose latent does not know the batch.

base          what both correctors share
autoencoder   the batch-conditional autoencoder
discrepancy   the maximum mean discrepancy between batches
critic        the critic of the Wasserstein distance
mmd, wgan     the two correctors
"""
