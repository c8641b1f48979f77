"""The web application: ``uvicorn --factory rental.app:from_env``, in as many processes as you like."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.routing import Route

from jetpay_async import AuthenticationError, JetpayError, NotSentError, RateLimitedError
from jetpay_async.ledger import PaymentStateError
from jetpay_async.webhooks import KeySet, PostgresInbox, RemoteKeySet, WebhookReceiver, WebhookVerifier
from jetpay_async.webhooks.asgi import WebhookApp
from rental.models import Booking
from rental.payments import Settings, Shop, open_shop
from rental.webhook import make_router

Row = dict[str, str | int | None]


class NewBooking(BaseModel):
    """What a customer sends."""

    contact_id: str
    credit_card_id: str
    amount: Decimal


class Decision(BaseModel):
    """Which debit the staff says is the booking's."""

    debit_id: str


def shop_of(request: Request) -> Shop:
    """Return what this process has open."""
    shop: Shop = request.app.state.shop
    return shop


OpenShop = Annotated[Shop, Depends(shop_of)]


async def shown(shop: Shop, booking_id: str) -> Row:
    """Return a booking for an answer."""
    booking = await shop.booking(booking_id)
    if booking is None:
        raise HTTPException(404)
    return {
        "id": booking.id,
        "state": booking.state,
        "debit_id": booking.debit_id,
        "payments": booking.payments,
    }


def create_app(settings: Settings, *, keys: KeySet | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: Where its database and Jetpay are.
        keys: What deliveries are signed with; Jetpay's own if None. A test passes those of its fixture.
    """
    published = RemoteKeySet(settings.base_url)
    inbox = PostgresInbox(settings.database_url)
    verifier = WebhookVerifier(keys or published, webhook_ids=settings.webhook_ids)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_shop(settings) as shop, published, inbox, receiver:
            app.state.shop = shop
            yield

    app = FastAPI(lifespan=lifespan)
    receiver = WebhookReceiver(verifier, make_router(lambda: app.state.shop, inbox), inbox=inbox)
    app.router.routes.append(Route("/webhooks/jetpay", WebhookApp(receiver), methods=["POST"]))

    @app.put("/bookings/{booking_id}")
    async def make_booking(booking_id: str, new: NewBooking, shop: OpenShop) -> Row:
        await shop.make_booking(
            Booking(
                id=booking_id,
                contact_id=new.contact_id,
                credit_card_id=new.credit_card_id,
                amount=new.amount,
            )
        )
        return await shown(shop, booking_id)

    @app.get("/bookings/{booking_id}")
    async def read(booking_id: str, shop: OpenShop) -> Row:
        return await shown(shop, booking_id)

    @app.post("/bookings/{booking_id}/return")
    async def take_back(booking_id: str, shop: OpenShop) -> Row:
        await shop.take_back(booking_id)
        return await shown(shop, booking_id)

    @app.get("/staff/unknown")
    async def unknown(shop: OpenShop) -> list[dict[str, object]]:
        return [
            {
                "booking": payment.reference,
                "amount": payment.arguments["amount"],
                "since": payment.intent_at,
                "candidates": [
                    {"debit_id": each.transaction_id, "state": each.state, "at": each.created_at} for each in candidates
                ],
            }
            for payment, candidates in await shop.open_bookings()
        ]

    @app.post("/staff/unknown/{booking_id}/adopt")
    async def adopt(booking_id: str, decision: Decision, shop: OpenShop) -> Row:
        await shop.adopt(booking_id, decision.debit_id)
        return await shown(shop, booking_id)

    @app.post("/staff/unknown/{booking_id}/discard")
    async def discard(booking_id: str, shop: OpenShop) -> Row:
        await shop.discard(booking_id)
        return await shown(shop, booking_id)

    @app.exception_handler(NotSentError)
    @app.exception_handler(AuthenticationError)
    @app.exception_handler(RateLimitedError)
    async def again(request: Request, error: JetpayError) -> JSONResponse:
        return JSONResponse({"detail": "nothing was reserved: try again"}, status_code=503)

    @app.exception_handler(PaymentStateError)
    async def conflict(request: Request, error: PaymentStateError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=409)

    return app


def from_env() -> FastAPI:
    """Return the application with the settings of the environment."""
    return create_app(Settings.from_env(os.environ))
