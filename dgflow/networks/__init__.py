"""Networks and their weights: ADM encoders, the discriminator, EDM score networks. torch only; nothing here
fetches or trains."""
