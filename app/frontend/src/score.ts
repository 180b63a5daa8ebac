// A layer of scores that is cut at a threshold in the browser: moving the threshold repaints what is already here.
import L from "./leaflet.ts";
import { code } from "./format.ts";
import type { Threshold } from "./types.ts";

interface ScoreTile {
  canvas: HTMLCanvasElement;
  codes: Uint16Array; // [256 * 256], row by row; 0 is no data
}

const SIZE = 256;

export class ScoreLayer extends L.GridLayer {
  private readonly tiles = new Set<ScoreTile>();

  constructor(
    private readonly url: string,
    private threshold: Threshold,
    options: L.GridLayerOptions,
  ) {
    super({ ...options, tileSize: SIZE });
    this.on("tileunload", (event: L.TileEvent) => {
      for (const tile of this.tiles) if (tile.canvas === (event.tile as HTMLElement)) this.tiles.delete(tile);
    });
  }

  cut(threshold: Threshold): void {
    this.threshold = threshold;
    for (const tile of this.tiles) this.paint(tile);
  }

  createTile(coords: L.Coords, done: L.DoneCallback): HTMLElement {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIZE;
    const image = new Image();
    image.onload = () => {
      const context = canvas.getContext("2d", { willReadFrequently: true });
      if (!context) return done(new Error("no canvas"), canvas);
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, SIZE, SIZE).data;
      const codes = new Uint16Array(SIZE * SIZE);
      for (let i = 0; i < codes.length; i++) codes[i] = pixels[4 * i + 3] ? (pixels[4 * i] << 8) | pixels[4 * i + 1] : 0;
      const tile = { canvas, codes };
      this.tiles.add(tile);
      this.paint(tile);
      done(undefined, canvas);
    };
    image.onerror = () => done(new Error(`tile ${coords.z}/${coords.x}/${coords.y} did not load`), canvas);
    image.src = L.Util.template(this.url, { ...coords });
    return canvas;
  }

  private paint({ canvas, codes }: ScoreTile): void {
    const context = canvas.getContext("2d");
    if (!context) return;
    const { low, high, value, color } = this.threshold;
    const limit = code(value, low, high);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const image = context.createImageData(SIZE, SIZE);
    const words = new Uint32Array(image.data.buffer);
    const changed = (255 << 24) | (blue << 16) | (green << 8) | red;
    for (let i = 0; i < codes.length; i++) if (codes[i] >= limit && codes[i] > 0) words[i] = changed;
    context.putImageData(image, 0, 0);
  }
}
