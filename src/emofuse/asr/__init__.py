"""What is said in a recording: for the user without a transcript, and for a corpus with a recogniser's words."""
