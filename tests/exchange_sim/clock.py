"""The simulator's one clock: RATE seconds pass in each real one, as in the daemon's test build. Hanging is for good at any rate."""
import asyncio
import time

RATE = 1.0
START_MONOTONIC, START_WALL = time.monotonic(), time.time()


def passed():
    return (time.monotonic() - START_MONOTONIC) * RATE


def now():
    return START_MONOTONIC + passed()


def wall():
    return START_WALL + passed()


def real(seconds):
    return seconds / RATE


async def sleep(seconds):
    await asyncio.sleep(real(seconds))
