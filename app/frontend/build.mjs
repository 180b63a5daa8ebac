// Bundle the map into one JavaScript file: Leaflet, Geoman and their styles inside, no address of anybody's server.
import { build } from "esbuild";
import { readdirSync } from "node:fs";

const shared = {
  bundle: true,
  format: "esm",
  target: "es2022",
  loader: { ".css": "text", ".png": "dataurl", ".svg": "dataurl" },
  logLevel: "warning",
};

if (process.argv.includes("--tests")) {
  const tests = readdirSync("test").filter((name) => name.endsWith(".test.ts"));
  await build({ ...shared, platform: "node", entryPoints: tests.map((name) => `test/${name}`), outdir: "dist-test", outExtension: { ".js": ".mjs" } });
} else {
  // Style sheets name images by relative address: a first pass inlines them, the second takes the result as text.
  const inlined = {
    name: "inline-css",
    setup(plugin) {
      plugin.onLoad({ filter: /\.css$/ }, async ({ path }) => {
        const { outputFiles } = await build({
          entryPoints: [path],
          bundle: true,
          minify: true,
          write: false,
          loader: { ".png": "dataurl", ".svg": "dataurl" },
        });
        return { contents: outputFiles[0].text, loader: "text" };
      });
    },
  };
  await build({ ...shared, entryPoints: ["src/index.ts"], outfile: "dist/map.js", minify: true, legalComments: "inline", plugins: [inlined] });
}
