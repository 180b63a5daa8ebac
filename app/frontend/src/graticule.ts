// Lines of latitude and longitude drawn by the browser: the ground of a map that fetches nothing.
import L from "./leaflet.ts";
import { graticuleStep } from "./format.ts";

export class Graticule extends L.LayerGroup {
  private map?: L.Map;

  onAdd(map: L.Map): this {
    this.map = map;
    map.on("moveend", this.redraw, this);
    super.onAdd(map);
    this.redraw();
    return this;
  }

  onRemove(map: L.Map): this {
    map.off("moveend", this.redraw, this);
    return super.onRemove(map);
  }

  private redraw(): void {
    if (!this.map) return;
    this.clearLayers();
    const view = this.map.getBounds().pad(0.5);
    const step = graticuleStep(this.map.getBounds().getEast() - this.map.getBounds().getWest());
    const line = (points: L.LatLngExpression[]) =>
      this.addLayer(L.polyline(points, { className: "gd-graticule", interactive: false, pane: "graticule", pmIgnore: true }));
    const south = Math.max(-85, view.getSouth());
    const north = Math.min(85, view.getNorth());
    const first = (from: number) => Math.ceil(from / step) * step;
    for (let lng = first(view.getWest()); lng <= view.getEast(); lng += step) line([[south, lng], [north, lng]]);
    for (let lat = first(south); lat <= north; lat += step) line([[lat, view.getWest()], [lat, view.getEast()]]);
  }
}
