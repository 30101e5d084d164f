package boot

import (
	"cmp"
	"strings"

	"millrace/appliance/boxapi"
)

// statusLine is what the console says of the box: one line, since a serial line is slow. It is printed
// when it changes and holds nothing that changes all the time.
func statusLine(i boxapi.Info, cluster string) string {
	parts := []string{
		i.Name,
		cmp.Or(strings.Join(i.Addresses, " "), "no address"),
		i.Role,
		"alone",
	}
	if cluster != "" {
		parts[3] = "cluster " + cluster
	}
	health := i.Health.Status
	if i.Health.Error != "" {
		health += ": " + i.Health.Error
	}
	parts = append(parts, health)
	if i.Update.Trial {
		parts = append(parts, "version "+i.Version+" on trial")
	}
	return strings.Join(parts, ", ")
}
