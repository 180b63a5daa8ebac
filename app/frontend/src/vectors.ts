// Polygons made by Python: footprints and changes. A click tells which one; the chosen one is thick and in view.
import type { Feature } from "geojson";
import L from "./leaflet.ts";
import type { Tell, Vectors } from "./types.ts";

interface Shown {
  revision: string;
  layer: L.GeoJSON;
  selected: string | null;
}

export class VectorLayers {
  private readonly shown = new Map<string, Shown>();

  constructor(private readonly map: L.Map) {}

  update(wanted: Vectors[], tell: Tell): void {
    for (const [id, { layer }] of this.shown)
      if (!wanted.some((vectors) => vectors.id === id)) {
        layer.remove();
        this.shown.delete(id);
      }
    for (const vectors of wanted) {
      let shown = this.shown.get(vectors.id);
      if (shown?.revision !== vectors.revision) {
        shown?.layer.remove();
        shown = { revision: vectors.revision, layer: this.make(vectors, tell), selected: null };
        this.shown.set(vectors.id, shown);
      }
      if (shown.selected !== vectors.selected) this.select(shown, vectors);
    }
  }

  private make(vectors: Vectors, tell: Tell): L.GeoJSON {
    const options = { style: { color: vectors.color, weight: 1.5, fillOpacity: 0.08 }, pmIgnore: true, pane: "vectors" };
    return L.geoJSON(vectors.geojson, {
      ...options,
      onEachFeature: (feature: Feature, layer: L.Layer) => {
        const id = String(feature.properties?.id ?? "");
        layer.on("click", (event: L.LeafletMouseEvent) => {
          L.DomEvent.stopPropagation(event);
          tell("picked", { layer: vectors.id, id });
        });
      },
    } as L.GeoJSONOptions).addTo(this.map);
  }

  private select(shown: Shown, vectors: Vectors): void {
    shown.selected = vectors.selected;
    shown.layer.eachLayer((layer) => {
      const path = layer as L.Polygon;
      const chosen = String(path.feature?.properties?.id) === vectors.selected;
      path.setStyle({ weight: chosen ? 4 : 1.5, fillOpacity: chosen ? 0.25 : 0.08 });
      if (chosen && !this.map.getBounds().contains(path.getBounds())) this.map.fitBounds(path.getBounds(), { maxZoom: 17, padding: [40, 40] });
      if (chosen) path.bringToFront();
    });
  }
}
