"""Graph passes, each Model -> Model, one file each."""
