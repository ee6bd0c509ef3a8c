"""What a root holds, told to an experiment tracker: TensorBoard, MLflow, Weights & Biases or Trackio."""
