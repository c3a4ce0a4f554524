# Shortens what `go test -v` prints, for people: a line a package with the number of its tests, every test that was skipped
# and why, all that a failed test or a crash printed.

# A package begins.
function begin() {
	delete said
	test = ""
	tests = skips = crash = 0
}

BEGIN { begin() }

/^=== (RUN|NAME|CONT|PAUSE) / { test = $3; next }

/^ *--- (PASS|SKIP|FAIL): / {
	name = $3
	if ($2 == "FAIL:")
		printf "%s%s\n", said[name], $0
	if ($2 == "SKIP:") {
		reason = said[name]
		sub(/^ *[A-Za-z0-9_]+\.go:[0-9]+: /, "", reason)
		gsub(/[ \n\t]+/, " ", reason)
		sub(/ $/, "", reason)
		printf "    skipped %s: %s\n", name, reason
		skips++
	}
	if ($0 ~ /^-/)
		tests++
	next
}

/^(PASS|FAIL)$/ { test = ""; next }
/^\?/ { next }
/^(ok  |FAIL)\t/ { print $0 (tests ? sprintf("\t%d tests", tests) : "") (skips ? sprintf(", %d skipped", skips) : ""); fflush(); begin(); next }
/^(panic|fatal error|SIG[A-Z]+): / { crash = 1 }
crash || test == "" { print; fflush(); next }
{ said[test] = said[test] $0 "\n" }
