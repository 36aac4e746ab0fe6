"""Supervised tasks on a streaming encoder: speech recognition, diarization and speaker embeddings."""
