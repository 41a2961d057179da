"""SQLAlchemy and Alembic with the database that libpq's environment names: "work" migrates it, uses it and undoes the migration; "refusals" prints what refusals look like."""
import io
import os
import sys

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import orm

engine = sa.create_engine("postgresql+psycopg://", connect_args={"prepare_threshold": 1})


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    iban: orm.Mapped[str | None]
    bookings: orm.Mapped[list["Booking"]] = orm.relationship(back_populates="customer", order_by="Booking.id")


class Booking(Base):
    __tablename__ = "bookings"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    customer_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("customers.id"))
    total: orm.Mapped[float] = orm.mapped_column(sa.Numeric)
    note: orm.Mapped[str | None]
    customer: orm.Mapped[Customer] = orm.relationship(back_populates="bookings")


def work():
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", os.path.join(os.path.dirname(__file__), "alembic"))
    config.attributes["engine"] = engine
    command.upgrade(config, "head")
    command.current(config, verbose=False)
    look = sa.inspect(engine)
    print(sorted(look.get_table_names()), look.get_view_names())
    for table in ("customers", "bookings", "invoices"):
        for column in look.get_columns(table):
            print(table, column["name"], column["type"], column["nullable"], column["default"])
        print(look.get_pk_constraint(table), look.get_foreign_keys(table), look.get_indexes(table), look.get_check_constraints(table), look.get_unique_constraints(table), look.get_table_comment(table))
    print(look.get_enums())

    with orm.Session(engine) as session:
        for customer in session.scalars(sa.select(Customer).options(orm.selectinload(Customer.bookings)).order_by(Customer.id)):
            print(customer.name, customer.iban, [(o.id, o.total) for o in customer.bookings])
        for order in session.scalars(sa.select(Booking).options(orm.joinedload(Booking.customer)).where(Booking.total > 7).order_by(Booking.id)):
            print(order.id, order.note, order.customer.iban)
        session.add_all([Booking(customer_id=1, total=n, note="orm") for n in range(5)])
        session.flush()
        print(session.execute(sa.select(sa.func.count(), sa.func.sum(Booking.total)).where(Booking.note == "orm")).all())
        for part in session.scalars(sa.select(Booking.total).where(Booking.note == "orm").order_by(Booking.id).execution_options(yield_per=2)).partitions():
            print(part)
        with session.begin_nested():
            session.execute(sa.update(Booking).where(Booking.note == "orm").values(note="changed"))
        try:
            with session.begin_nested():
                session.execute(sa.insert(Booking).values(customer_id=77, total=1))
        except sa.exc.IntegrityError as e:
            print(type(e.orig).__name__)
        session.execute(sa.delete(Booking).where(Booking.note == "changed"))
        session.commit()
    with engine.begin() as c:
        invoices = sa.Table("invoices", sa.MetaData(), autoload_with=c)
        print(c.execute(invoices.insert().returning(invoices.c.id, invoices.c.state), [{"customer_id": 1, "amount": n} for n in range(3)]).all())
    command.downgrade(config, "base")
    print(sorted(sa.inspect(engine).get_table_names()))


def refusals():
    for name, statement in {
        "denied": sa.text("SELECT * FROM closed"),
        "masked": sa.select(Customer.name).where(Customer.iban == "DE1"),
        "value": sa.select(Customer.name).where(Customer.id == 999),
        "held": sa.delete(Booking),
    }.items():
        with orm.Session(engine) as session:
            try:
                session.execute(statement)
                print(name, "was not refused")
            except sa.exc.DBAPIError as e:
                d = e.orig.diag
                print(name, type(e).__name__, d.sqlstate, d.message_primary, "|", d.message_detail, "|", d.message_hint, "|", e.connection_invalidated)
            session.rollback()
            print(session.scalar(sa.select(sa.literal(1))))


globals()[sys.argv[1]]()
engine.dispose()
