"""invoices"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    op.create_table(
        "invoices",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.id", ondelete="CASCADE"), nullable=False),
        sa.Column("amount", sa.Numeric(12, 2), server_default="0", nullable=False),
        sa.Column("sent", sa.DateTime(timezone=True)),
        sa.CheckConstraint("amount >= 0", name="not_negative"),
        comment="what is owed",
    )
    op.create_index("invoices_customer", "invoices", ["customer_id"])
    op.bulk_insert(sa.table("invoices", sa.column("customer_id"), sa.column("amount")), [{"customer_id": 1, "amount": 3}, {"customer_id": 2, "amount": 4}])


def downgrade():
    op.drop_index("invoices_customer", "invoices")
    op.drop_table("invoices")
