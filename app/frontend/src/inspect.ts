// A click on the map: coordinates and the value of every visible layer there, asked from the tile server.
import L from "./leaflet.ts";
import { coordinates, short } from "./format.ts";
import type { Layer } from "./types.ts";

interface PointValue {
  band: string;
  value: number | null;
  label: string | null; // name of the class, where the layer has classes
}

/** Address of a layer's values at a point, from the address of its tiles. */
function pointAddress(layer: Layer, at: L.LatLng): string {
  return `${layer.url.split("/{z}")[0]}/point?lng=${at.lng}&lat=${at.lat}`;
}

async function values(layer: Layer, at: L.LatLng): Promise<PointValue[]> {
  const response = await fetch(pointAddress(layer, at));
  return response.ok ? ((await response.json()) as { values: PointValue[] }).values : [];
}

export function inspect(map: L.Map, at: L.LatLng, layers: Layer[]): void {
  const box = L.DomUtil.create("div", "gd-values");
  const title = L.DomUtil.create("strong", "", box);
  title.textContent = coordinates(at.lat, at.lng);
  const table = L.DomUtil.create("table", "", box);
  const popup = L.popup({ className: "gd-popup", maxWidth: 280, autoPanPadding: [24, 24] }).setLatLng(at).setContent(box).openOn(map);
  for (const layer of layers.filter((one) => one.visible && L.latLngBounds(one.bounds).contains(at))) {
    const head = L.DomUtil.create("tr", "gd-of", table);
    const name = L.DomUtil.create("th", "", head) as HTMLTableCellElement;
    name.colSpan = 2;
    name.textContent = layer.name;
    const place = L.DomUtil.create("tbody", "", table);
    void values(layer, at).then((found) => {
      for (const { band, value, label } of found) {
        const row = L.DomUtil.create("tr", "", place);
        L.DomUtil.create("td", "", row).textContent = band;
        L.DomUtil.create("td", "gd-value", row).textContent = label ?? short(value);
      }
      if (found.length === 0) L.DomUtil.create("td", "", L.DomUtil.create("tr", "", place)).textContent = "no data";
      popup.update();
    });
  }
}
