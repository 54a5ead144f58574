"""Reinforcement learning on Procgen by agents that modify themselves while they act."""
