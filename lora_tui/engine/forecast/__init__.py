"""What a configuration will do, estimated without torch or network."""
