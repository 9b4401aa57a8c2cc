package syntax

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// Directive reads a directive that takes an account's name and a block. option reads the option at the cursor, if there is
// one of this name; names are all that there are.
func Directive(d *caddyfile.Dispenser, of string, account *string, option func(o *Options) (known bool, err error), names ...string) error {
	d.Next() // the directive's name
	if err := Argument(d, account); err != nil {
		return err
	}
	return (&Options{D: d, Of: of}).each(0, option, names)
}

// Accounts reads the global option of a platform's app into configs, which is a part of app. Several blocks merge, so that
// existing may be what an earlier one has read. option reads the option at the cursor, if an account has one of this name;
// check, which may be nil, looks at the whole account. more read further options of the app, if they know the one at the cursor.
//
//	<name> {
//	    <kind> <account> {
//	        <options>
//	    }
//	}
func Accounts[Config any](d *caddyfile.Dispenser, existing any, name, kind string, app any, configs *map[string]*Config,
	option func(*Config, *Options) (known bool, err error), check func(account string, config *Config) error,
	more ...func(d *caddyfile.Dispenser) (known bool, err error)) (any, error) {
	if earlier, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(earlier.Value, app); err != nil {
			return nil, d.WrapErr(locale.Errorf("reading the %s block above: %v", name, err))
		}
	}
	if *configs == nil {
		*configs = make(map[string]*Config)
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.WrapErr(locale.Errorf("%s takes a block, not %q", name, d.Val()))
	}
	further := func() (known bool, err error) {
		for _, option := range more {
			if known, err = option(d); known || err != nil {
				break
			}
		}
		return known, err
	}
	for d.NextBlock(0) {
		if known, err := further(); err != nil {
			return nil, err
		} else if known {
			continue
		}
		if d.Val() != kind {
			options := []string{kind}
			for _, option := range names(app) {
				if option != kind+"s" { // its accounts, in JSON
					options = append(options, option)
				}
			}
			if Nearest(d.Val(), options) != "" {
				return nil, Unknown(d, name, options...)
			}
			return nil, d.WrapErr(locale.Errorf("unknown option %q; %s has %s", d.Val(), name, kind))
		}
		if !d.NextArg() {
			return nil, d.WrapErr(locale.Errorf("%s needs a name", kind))
		}
		account, config := d.Val(), new(Config)
		if d.NextArg() {
			return nil, d.WrapErr(locale.Errorf("%s %s: surplus argument %q", kind, account, d.Val()))
		}
		if err := accounts.CheckName(account); err != nil {
			return nil, d.WrapErr(locale.Errorf("%s %q: %v", kind, account, err))
		}
		if (*configs)[account] != nil {
			return nil, d.WrapErr(locale.Errorf("%s %s: there are two %ss of this name", kind, account, kind))
		}
		o := &Options{D: d, Of: kind + " " + account}
		if err := o.each(d.Nesting(), func(o *Options) (bool, error) { return option(config, o) }, names(config)); err != nil {
			return nil, err
		}
		if check != nil {
			if err := check(account, config); err != nil {
				return nil, d.WrapErr(err)
			}
		}
		(*configs)[account] = config
	}
	return httpcaddyfile.App{Name: name, Value: caddyconfig.JSON(app, nil)}, nil
}

// each calls option for every option of the block at the cursor, and refuses those that there are not.
func (o *Options) each(nesting int, option func(o *Options) (known bool, err error), names []string) error {
	for o.D.NextBlock(nesting) {
		known, err := option(o)
		if err == nil && !known {
			err = o.Unknown(names...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
