"""What a terminal sees of mml-ray: flags, help, completion, the commands that set things up."""
