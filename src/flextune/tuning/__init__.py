"""Fine-tuning: LoRA on a frozen model, with the Fourier penalty on its factors."""
