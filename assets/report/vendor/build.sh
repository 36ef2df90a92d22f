#!/usr/bin/env bash
# Rebuild the viewers in this folder from npm (README.md has the versions). Needs node and npm; run it here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --no-audit --no-fund --ignore-scripts @google/model-viewer@4.4.0 gsplat@1.2.9 uplot@1.6.32 esbuild@0.25.12
npm rebuild esbuild
cp node_modules/@google/model-viewer/dist/model-viewer-umd.min.js "$here/model-viewer.js"
cp node_modules/uplot/dist/uPlot.iife.min.js "$here/uplot.js"
cp node_modules/uplot/dist/uPlot.min.css "$here/uplot.css"
# A page from a disk has no origin, and browsers start no module workers for such pages: gsplat's two workers, which
# it carries as text in base64, become classic scripts.
node -e '
  const fs = require("fs");
  let text = fs.readFileSync("node_modules/gsplat/dist/index.es.js", "utf8");
  text = text.replace(/"([A-Za-z0-9+\/]{2000,}=*)"/g, (whole, base64) => {
    const script = Buffer.from(base64, "base64").toString("utf8");
    if (!script.includes("import.meta.url")) return whole;
    const classic = script.replaceAll("import.meta.url", "self.location.href");
    return JSON.stringify(Buffer.from(classic, "utf8").toString("base64"));
  });
  text = text.replaceAll("\"URL.revokeObjectURL(import.meta.url);\"", "\"\"").replaceAll("type: \"module\"", "type: \"classic\"");
  fs.writeFileSync("gsplat.js", text);
'
node_modules/.bin/esbuild gsplat.js --bundle --format=iife --global-name=SPLAT --minify \
  --define:import.meta.url=document.baseURI --outfile="$here/gsplat.js"
sed -i 's|//# sourceMappingURL=.*||' "$here"/*.js
