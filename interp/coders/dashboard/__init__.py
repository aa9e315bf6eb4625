"""Dashboards: what each latent of a coder fires on, what it writes, and which latents are near it."""

from interp.coders.dashboard.profile import profile_latents as profile_latents
