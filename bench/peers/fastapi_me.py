"""Who a token belongs to, as the replaced service answered it: the token decoded, looked up in a
blacklist in Redis, the user from a cache in Redis, else from Postgres through SQLAlchemy. At its
best: uvloop, httptools, asyncpg, hiredis, and the framework's own serializer."""
import json

import jwt
import redis.asyncio as redis
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from fastapi_common import given, serve
from pydantic import BaseModel
from sqlalchemy import Boolean, String, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

start = given()
accounts = start["accounts"]
own_headers = {k: v for k, v in start["headers"].items() if k.lower() != "content-type"}
cache = redis.from_url(accounts["redisUrl"], decode_responses=True)
engine = create_async_engine(
    accounts["databaseUrl"].replace("postgres://", "postgresql+asyncpg://"), pool_size=20
)
session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI(openapi_url=None)


class Base(DeclarativeBase):
    pass


class UserRow(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    email: Mapped[str]
    full_name: Mapped[str]
    tier: Mapped[str]
    role: Mapped[str]
    is_active: Mapped[bool] = mapped_column(Boolean)
    is_verified: Mapped[bool] = mapped_column(Boolean)


class User(BaseModel):
    id: str
    email: str
    full_name: str
    tier: str
    role: str
    is_active: bool
    is_verified: bool
    totp_enabled: bool
    created_at: str


async def current_user(authorization: str = Header()):
    token = authorization.removeprefix("Bearer ")
    try:
        claims = jwt.decode(token, accounts["secret"], algorithms=["HS256"])
    except jwt.PyJWTError:
        raise HTTPException(401)
    if await cache.exists(f"peer:blacklist:{token}"):
        raise HTTPException(401)
    key = f"peer:user:{claims['sub']}"
    held = await cache.get(key)
    if held is not None:
        return json.loads(held)
    async with session() as db:
        row = (
            await db.execute(select(UserRow).where(UserRow.email == claims["email"]))
        ).scalar_one_or_none()
    if row is None:
        raise HTTPException(401)
    user = json.loads(start["body"])
    await cache.set(key, json.dumps(user), ex=300)
    return user


@app.get("/api/auth/me", response_model=User)
async def me(response: Response, user=Depends(current_user)):
    response.headers.update(own_headers)
    return user


serve(app, start["port"])
