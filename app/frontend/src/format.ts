// Pure functions of the map: no page, no Leaflet.
import type { Arrangement, Layer } from "./types.ts";

/** Degrees with a hemisphere letter, as charts write them. */
export function coordinates(lat: number, lng: number): string {
  const wrapped = ((((lng + 180) % 360) + 360) % 360) - 180;
  const one = (value: number, positive: string, negative: string) =>
    `${Math.abs(value).toFixed(5)}° ${value < 0 ? negative : positive}`;
  return `${one(lat, "N", "S")}  ${one(wrapped, "E", "W")}`;
}

/** A value for a narrow box: whole numbers whole, others with four significant digits. */
export function short(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "no data";
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(4)));
}

/** Layers in the analyst's order, visibility and opacity; layers that are new to the map come as Python gave them, in place. */
export function arrange(layers: Layer[], kept: Arrangement[]): Layer[] {
  const known = new Map(kept.map((entry, index) => [entry.id, { ...entry, index }]));
  const old = layers.filter((layer) => known.has(layer.id));
  old.sort((a, b) => (known.get(a.id)?.index ?? 0) - (known.get(b.id)?.index ?? 0));
  let next = 0;
  return layers.map((layer) => {
    if (!known.has(layer.id)) return layer;
    const moved = old[next++];
    const entry = known.get(moved.id);
    return entry ? { ...moved, visible: entry.visible, opacity: entry.opacity } : moved;
  });
}

/** Where to go on a list when one item moves one step up (-1) or down (+1). */
export function step<T>(items: T[], index: number, by: -1 | 1): T[] {
  const other = index + by;
  if (other < 0 || other >= items.length) return items;
  const moved = [...items];
  [moved[index], moved[other]] = [moved[other], moved[index]];
  return moved;
}

/** The 16-bit code (1 to 65535; 0 is no data) that a score has in a tile. */
export function code(score: number, low: number, high: number): number {
  const share = high > low ? (score - low) / (high - low) : 0;
  return 1 + Math.round(Math.min(1, Math.max(0, share)) * 65534);
}

/** Distance between lines of the graticule, degrees: about six of them over the view. */
export function graticuleStep(span: number): number {
  const steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30];
  return steps.find((value) => span / value <= 6) ?? 45;
}

/** Whether a colour, `#rrggbb` or `rgb(r, g, b)`, is a dark ground. */
export function isDark(color: string): boolean {
  const text = color.trim();
  const parts = text.startsWith("#")
    ? [1, 3, 5].map((at) => parseInt(text.length === 4 ? text[(at + 1) / 2].repeat(2) : text.slice(at, at + 2), 16))
    : (text.match(/[\d.]+/g) ?? ["255", "255", "255"]).slice(0, 3).map(Number);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] < 128;
}
