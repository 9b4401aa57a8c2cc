package shouqianba

// What the console asks the app: package console finds these methods by their names.

// Accounts are the names of the terminals.
func (a *App) Accounts() []string {
	names := make([]string, 0, len(a.Terminals))
	for _, t := range a.terminals.All() {
		names = append(names, t.name)
	}
	return names
}

// Watches reports whether orders are followed.
func (a *App) Watches() bool { return a.watched != nil }
