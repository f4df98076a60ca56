"""For eyes: pictures beside their dark versions, and what a model has learnt."""
