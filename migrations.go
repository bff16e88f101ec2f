package taskfleet

import (
	"embed"
	"io/fs"
	"path"
)

// migrations are the files of all services. A package embeds its own as well, and applies them when it is opened; here they
// are together, for whoever migrates a database without opening anything on it.
//
//go:embed */migrations/*.sql */*/migrations/*.sql
var migrations embed.FS

// services are the directories of those whose name in the database is not that of the directory.
var services = map[string]string{"credentials/audit": "credentials-audit", "purgecache": "purge-cache", "seal/ring": "keys"}

// Migrations returns the migrations of all services by the names that the services have in the database. Those of package
// store, which come with any of them, are under "store".
func Migrations() (map[string]fs.FS, error) {
	all := map[string]fs.FS{}
	err := fs.WalkDir(migrations, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || path.Base(name) != "migrations" {
			return err
		}
		service := services[path.Dir(name)]
		if service == "" {
			service = path.Base(path.Dir(name))
		}
		all[service], err = fs.Sub(migrations, name)
		return err
	})
	return all, err
}
