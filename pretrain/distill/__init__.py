"""Small students from a large frozen teacher."""
