package catalog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// Key is whose catalog it is, of the databases of one server.
type Key struct{ Database, Role string }

// maxCatalogs is how many are kept for one server. Roles and databases are named by agents.
const maxCatalogs = 32

// Cache keeps the catalogs of one server's databases. Its methods may be called by several goroutines at once.
type Cache struct {
	Fresh time.Duration // how long a catalog is used before it is asked whether it changed; longer where asking takes more than a twentieth of it
	Now   func() time.Time

	mu    sync.Mutex
	kept  map[Key]*kept
	reads int // how many were read whole
}

type kept struct {
	mu      sync.Mutex // held while it is looked at or read, so that sessions that begin at once read once
	catalog *statement.Catalog
	mark    string
	looked  time.Time
	took    time.Duration // to ask whether it changed
	used    time.Time     // under the cache's mutex
}

// Get returns the catalog of a role, and asks query whether it changed where it is not fresh. The query has to be the role's, outside of any transaction.
func (c *Cache) Get(ctx context.Context, key Key, query Query) (*statement.Catalog, error) {
	k := c.entry(key)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := c.Now()
	if k.catalog != nil && now.Sub(k.looked) < max(c.Fresh, 20*k.took) {
		return k.catalog, nil
	}
	mark, err := Mark(ctx, query) // before it is read: what changes in between is seen the next time
	if err != nil {
		return nil, err
	}
	k.took = c.Now().Sub(now)
	if k.catalog == nil || mark != k.mark {
		read, err := Read(ctx, query, false)
		if err != nil {
			return nil, err
		}
		if read.Database != key.Database || read.Role != key.Role {
			return nil, fmt.Errorf("the catalog is of role %q in %q, not of %q in %q", read.Role, read.Database, key.Role, key.Database)
		}
		k.catalog, k.mark = read, mark
		c.mu.Lock()
		c.reads++
		c.mu.Unlock()
	}
	k.looked = now
	return k.catalog, nil
}

// Changed says that a definition of a database has changed: the next Get asks whether.
func (c *Cache) Changed(database string) {
	c.mu.Lock()
	var list []*kept
	for key, k := range c.kept {
		if key.Database == database {
			list = append(list, k)
		}
	}
	c.mu.Unlock()
	for _, k := range list {
		k.mu.Lock()
		k.looked, k.took = time.Time{}, 0
		k.mu.Unlock()
	}
}

func (c *Cache) entry(key Key) *kept {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = map[Key]*kept{}
	}
	k := c.kept[key]
	if k == nil {
		if len(c.kept) >= maxCatalogs {
			var oldest Key
			for key, k := range c.kept {
				if o := c.kept[oldest]; o == nil || k.used.Before(o.used) {
					oldest = key
				}
			}
			delete(c.kept, oldest)
		}
		k = &kept{}
		c.kept[key] = k
	}
	k.used = c.Now()
	return k
}

// Mark is a text that is another when anything that [Read] reads has changed since. Of PostgreSQL's own rows only schemas are looked at.
func Mark(ctx context.Context, query Query) (string, error) {
	sql := "SELECT pg_catalog.concat(pg_catalog.count(*), '.', pg_catalog.sum(pg_catalog.hashtextextended(x, 0))) FROM ("
	for i, table := range []struct{ name, own string }{
		{"pg_namespace", ""},
		{"pg_auth_members", ""},
		{"pg_class", "oid"},
		{"pg_attribute", "attrelid"},
		{"pg_attrdef", "adrelid"},
		{"pg_inherits", "inhrelid"},
		{"pg_rewrite", "ev_class"},
		{"pg_policy", ""},
		{"pg_trigger", "oid"},
		{"pg_constraint", "oid"},
		{"pg_type", "oid"},
		{"pg_proc", "oid"},
		{"pg_operator", "oid"},
		{"pg_cast", "oid"},
		{"pg_index", "indrelid"},
	} {
		if i > 0 {
			sql += " UNION ALL "
		}
		sql += "SELECT pg_catalog.concat('" + table.name + "', ctid, ' ', xmin) FROM pg_catalog." + table.name
		if table.own != "" {
			sql += " WHERE " + table.own + " OPERATOR(pg_catalog.>=) 16384"
		}
	}
	rows, err := query(ctx, sql+") AS t(x)")
	if err != nil {
		return "", fmt.Errorf("ask whether the catalog changed: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", fmt.Errorf("ask whether the catalog changed: %d rows", len(rows))
	}
	return rows[0][0], nil
}
