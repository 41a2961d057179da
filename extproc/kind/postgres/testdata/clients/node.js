// node-postgres with the database that libpq's environment names: "work" prints what it does, "refusals" what refusals look like.
const fs = require('fs')
const { Client, Pool, types } = require('pg')

const config = { ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT), servername: 'localhost' } }

async function work(client) {
  types.setTypeParser(1082, (text) => text)
  types.setTypeParser(1184, (text) => text)
  const all = await client.query('SELECT * FROM customers ORDER BY id')
  console.log(JSON.stringify(all.rows), all.fields.map((f) => [f.name, Math.min(f.dataTypeID, 16384), f.format]))
  console.log(JSON.stringify((await client.query('SELECT name, iban FROM customers WHERE id = $1', [1])).rows))
  console.log(JSON.stringify((await client.query({ text: 'SELECT id, iban, raw FROM customers WHERE id = ANY($1) ORDER BY id', values: [[1, 2]], rowMode: 'array', binary: true })).rows))
  for (let i = 1; i <= 3; i++) {
    console.log(JSON.stringify((await client.query({ name: 'by-id', text: 'SELECT name, iban FROM customers WHERE id = $1', values: [i] })).rows))
  }
  const several = await client.query("SELECT 1 AS a; SELECT iban FROM customers ORDER BY id; INSERT INTO copied VALUES (1, 'n')")
  console.log(JSON.stringify(several.map((r) => [r.command, r.rowCount, r.rows])))
  await client.query('BEGIN')
  console.log((await client.query('UPDATE copied SET name = $1 RETURNING id, name', ['m'])).rows)
  await client.query('SAVEPOINT a')
  await client.query('SELECT 1/0').catch((e) => console.log(e.code, e.message, e.severity))
  await client.query('ROLLBACK TO SAVEPOINT a')
  console.log((await client.query('DELETE FROM copied WHERE id = 1')).rowCount)
  await client.query('COMMIT')
  await client.query('SELECT nothing FROM customers').catch((e) => console.log(e.code, e.message, e.position))
  const heard = new Promise((resolve) => client.once('notification', resolve))
  await client.query('LISTEN news')
  await client.query("SELECT pg_notify('news', '[redacted]')")
  console.log((await heard).payload)
  const pool = new Pool({ ...config, max: 4 })
  console.log((await Promise.all([...Array(12).keys()].map((n) => pool.query('SELECT $1::int AS n, iban FROM customers WHERE id = 1', [n])))).map((r) => [r.rows[0].n, r.rows[0].iban]))
  await pool.end()
}

async function refusals(client) {
  const refusal = (name, query) => client.query(query).then(
    () => console.log(name, 'was not refused'),
    (e) => console.log(name, e.name, e.code, e.message, '|', e.detail, '|', e.hint))
  await refusal('denied', 'SELECT * FROM closed')
  await refusal('denied, prepared', { text: 'SELECT * FROM closed WHERE secret = $1', values: ['x'] })
  await refusal('value', { text: 'SELECT name FROM customers WHERE id = $1', values: [999] })
  await refusal('masked', 'SELECT name FROM customers ORDER BY iban')
  await refusal('held', 'DELETE FROM bookings')
  await client.query('BEGIN')
  await refusal('in a transaction', 'SELECT * FROM closed')
  await refusal('failed', 'SELECT 1')
  await client.query('ROLLBACK')
  console.log((await client.query('SELECT 1 AS one')).rows[0].one)
}

async function main() {
  const client = new Client(config)
  await client.connect()
  await { work, refusals }[process.argv[2]](client)
  await client.end()
}
main().catch((e) => { console.error(e); process.exit(1) })
