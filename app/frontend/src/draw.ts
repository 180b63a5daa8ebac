// Drawing examples by class. The browser owns the features while the analyst draws; Python gets each new state whole.
import "@geoman-io/leaflet-geoman-free";
import type { Feature, FeatureCollection } from "geojson";
import L from "./leaflet.ts";
import type { Draw, DrawClass, Tell } from "./types.ts";

interface Drawn extends L.Path {
  gd?: { id: string; class: number };
  toGeoJSON(): Feature;
  feature?: Feature;
}

const REMEMBERED = 100; // states that undo can go back through

export class Drawing {
  private readonly group = L.featureGroup();
  private classes: DrawClass[] = [];
  private revision: number | null = null;
  private past: string[] = [];
  private last = JSON.stringify({ type: "FeatureCollection", features: [] });
  private count = 0;
  current = 0;

  constructor(
    private readonly map: L.Map,
    private tell: Tell,
  ) {
    this.group.addTo(map);
    map.pm.setGlobalOptions({ layerGroup: this.group, snappable: false, continueDrawing: true, tooltips: true });
    map.on("pm:create", ({ layer }) => {
      this.adopt(layer as Drawn, { id: this.name(), class: this.current });
      this.report();
    });
    map.on("pm:cut", ({ layer, originalLayer }) => {
      // What is left of a cut feature is a new layer of the same class; nothing is left where all was cut away.
      const before = (originalLayer as Drawn).gd;
      this.group.removeLayer(originalLayer);
      if (before && map.hasLayer(layer)) this.adopt(layer as Drawn, before);
      this.report();
    });
    map.on("pm:remove", () => this.report());
  }

  update(draw: Draw | null, tell: Tell): void {
    this.tell = tell;
    this.classes = draw?.classes ?? [];
    if (!draw) {
      if (this.map.pm.controlsVisible()) this.map.pm.removeControls();
      this.map.pm.disableDraw();
      if (this.map.pm.globalEditModeEnabled()) this.map.pm.disableGlobalEditMode();
      this.group.remove();
      return;
    }
    this.group.addTo(this.map);
    if (!this.map.pm.controlsVisible())
      this.map.pm.addControls({ position: "topleft", drawCircle: false, drawCircleMarker: false, drawText: false, rotateMode: false });
    if (!this.classes.some((entry) => entry.id === this.current)) this.current = this.classes[0]?.id ?? 0;
    if (draw.revision !== this.revision) {
      this.revision = draw.revision;
      this.past = [];
      this.load(draw.features);
      this.last = JSON.stringify(this.collection());
    } else this.group.eachLayer((layer) => this.paint(layer as Drawn));
  }

  choose(id: number): void {
    this.current = id;
    if (!this.map.pm.globalDrawModeEnabled()) this.map.pm.enableDraw("Polygon");
    const color = this.color(id);
    this.map.pm.setPathOptions({ color, fillColor: color, fillOpacity: 0.35, weight: 2 });
  }

  undo(): void {
    const before = this.past.pop();
    if (before === undefined) return;
    this.load(JSON.parse(before) as FeatureCollection);
    this.last = before;
    this.tell("drawn", { revision: this.revision, features: this.collection() });
  }

  private load(features: FeatureCollection): void {
    this.group.clearLayers();
    L.geoJSON(features, { pointToLayer: (_, at) => L.circleMarker(at, { radius: 6 }) }).eachLayer((layer) => {
      const properties = (layer as Drawn).feature?.properties ?? {};
      this.adopt(layer as Drawn, { id: String(properties.id ?? this.name()), class: Number(properties.class ?? this.current) });
    });
  }

  private adopt(layer: Drawn, gd: { id: string; class: number }): void {
    layer.gd = gd;
    this.group.addLayer(layer);
    this.paint(layer);
    layer.on("pm:edit pm:dragend", () => this.report());
    layer.on("pm:remove", () => this.group.removeLayer(layer));
  }

  private paint(layer: Drawn): void {
    const color = this.color(layer.gd?.class ?? 0);
    // A drawn point is Leaflet's picture marker: its colour is a style of its own element.
    if (layer instanceof L.Marker) {
      layer.setIcon(L.divIcon({ className: "gd-point", iconSize: [14, 14] }));
      const element = (layer as L.Marker).getElement();
      if (element) element.style.background = color;
    } else if (typeof layer.setStyle === "function") layer.setStyle({ color, fillColor: color, fillOpacity: 0.35, weight: 2 });
  }

  private color(id: number): string {
    return this.classes.find((entry) => entry.id === id)?.color ?? "#3b82f6";
  }

  private name(): string {
    this.count += 1;
    return `${Date.now().toString(36)}-${this.count}`;
  }

  private collection(): FeatureCollection {
    const features: Feature[] = [];
    this.group.eachLayer((layer) => {
      const drawn = layer as Drawn;
      if (drawn.gd) features.push({ type: "Feature", geometry: drawn.toGeoJSON().geometry, properties: { ...drawn.gd } });
    });
    return { type: "FeatureCollection", features };
  }

  /** Tell Python the new state, and keep the one before for undo. */
  private report(): void {
    const now = JSON.stringify(this.collection());
    if (now === this.last) return;
    this.past.push(this.last);
    if (this.past.length > REMEMBERED) this.past.shift();
    this.last = now;
    this.tell("drawn", { revision: this.revision, features: this.collection() });
  }
}
