"""Write the content of a root to an experiment tracker: TensorBoard, MLflow, Weights & Biases or Trackio."""
