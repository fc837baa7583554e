"""What the pages' experiments share: how a small run is made, swept over rates, scored and stored."""
