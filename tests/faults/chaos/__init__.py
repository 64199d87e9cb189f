"""The chaos run: everything breaks at random, and three ledgers must still agree."""
