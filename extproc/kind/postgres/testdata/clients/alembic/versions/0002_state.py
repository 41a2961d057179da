"""a state, which is an enum"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"
state = sa.Enum("open", "paid", name="invoice_state")


def upgrade():
    state.create(op.get_bind())
    op.add_column("invoices", sa.Column("state", state, server_default="open", nullable=False))
    op.execute("UPDATE invoices SET state = 'paid' WHERE amount > 3")
    op.alter_column("invoices", "amount", type_=sa.Numeric(14, 2), comment="in euros")
    op.create_unique_constraint("one_each", "invoices", ["customer_id", "amount"])


def downgrade():
    op.drop_constraint("one_each", "invoices")
    op.drop_column("invoices", "state")
    state.drop(op.get_bind())
