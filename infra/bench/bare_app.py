"""What an HTTP booking is compared with: a FastAPI route that does one INSERT by itself, and an empty one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from starlette.requests import Request


class Booking(BaseModel):
    patient_id: str
    provider_id: str
    start: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    pool = AsyncConnectionPool(os.environ["BENCH_DSN"], min_size=16, max_size=16, open=False)
    await pool.open(wait=True)
    async with pool.connection() as connection:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS bench_booking"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, patient text, provider text, start text)"
        )
    app.state.pool = pool
    yield
    await pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/book", status_code=201)
async def book(booking: Booking, request: Request) -> dict[str, str]:
    async with request.app.state.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO bench_booking (patient, provider, start) VALUES (%s, %s, %s)",
            (booking.patient_id, booking.provider_id, booking.start),
        )
    return {"status": "booked"}


@app.post("/empty", status_code=201)
async def empty(booking: Booking) -> dict[str, str]:
    return {"status": "nothing"}
