"""Reinforcement learning on Procgen, with gradients through self-modification."""
