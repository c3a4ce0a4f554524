package tests

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/torchtest"
)

// The example is valid by the schemas of Kubernetes, without a field that they do not know.
func TestKubernetesSchemas(t *testing.T) {
	python := torchtest.Python(t, "kubernetes_validate", "yaml")
	files, err := filepath.Glob("../deploy/kubernetes/*.yaml")
	require.NoError(t, err)
	const script = `
import sys, yaml, kubernetes_validate as k
n = 0
for path in sys.argv[1:]:
    for doc in yaml.safe_load_all(open(path)):
        k.validate(doc, "1.34", strict=True)
        n += 1
        doc["spec"]["replcias"] = 1
        try:
            k.validate(doc, "1.34", strict=True)
        except k.ValidationError:
            continue
        sys.exit("a field that does not exist is accepted")
print(n)
`
	out, err := exec.Command(python, append([]string{"-c", script}, files...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "4\n", string(out))
}
